"""What tests share: synthetic results and plain definitions."""
