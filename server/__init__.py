"""The coordinator: asks, combines, stores, reports."""
