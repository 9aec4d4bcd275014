"""What a machine is: device, compilation, memory, stopping, progress."""
