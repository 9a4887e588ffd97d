"""Starting workflows, asking about them, waiting for them and stopping them, with `await` and without."""
