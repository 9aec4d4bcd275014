"""What touches a disk and must survive it, or distrust it: files, tensors, locks, plain YAML."""
