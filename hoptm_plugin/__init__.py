"""Dataset distillation, benchmarked."""
