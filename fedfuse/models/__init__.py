"""The models that clients can have; each returns logits and features."""
