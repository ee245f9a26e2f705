"""One module per verb, or per family of verbs that share their work. Each defines functions that `wherry.cli.app` registers."""
