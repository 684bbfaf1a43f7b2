"""What a stage's handler computes on: a context, inputs, logits, latents, risks, followed people."""
