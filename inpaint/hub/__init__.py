"""Publishing on the Hugging Face Hub: a queue on disk, one commit for each snapshot of a run, a model card."""
