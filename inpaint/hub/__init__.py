"""Publishing on the Hugging Face Hub: a queue on disk, one commit for each snapshot of a run, a model card.

`queue` keeps what is to be pushed, `push` turns one snapshot into one commit, `publisher` does so in the background
while a run trains, `card` writes the model card from the run's own files, `errors` says in plain words what went wrong.
"""
