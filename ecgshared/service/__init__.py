"""What every long-lived process needs: logs, fingerprints, files that last."""
