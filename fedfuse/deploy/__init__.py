"""What a federation over real machines needs besides the apps: certificates and keys."""
