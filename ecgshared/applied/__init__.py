"""A trained model at work on one ECG: its file, outputs with intervals, its card, its graph elsewhere."""
