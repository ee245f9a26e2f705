"""Calls that the control plane makes to others: webhooks. Implements what `controlplane.admission.webhooks.base` asks for;
handed to the registry by `controlplane.server`, and imported with the first call."""
