"""MutatingWebhookConfiguration and ValidatingWebhookConfiguration: requests are put before services outside, over HTTPS.

`select` says which hooks a request concerns, `review` writes the question and reads the answer (both pure), `targets` says
where a hook is reached, `dispatch` asks. How bytes travel is `base.Transport`'s, which `controlplane.outbound` implements.
Loaded when there is such a configuration; see `controlplane.admission.chain`.
"""
