"""What the command line's commands do, from plain values: no Hydra, no OmegaConf."""
