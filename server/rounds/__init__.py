"""The loop over sites: who is asked, who answered, what a run keeps."""
