"""What may run here: the register of approvals, what each step requires, and how a person decides."""
