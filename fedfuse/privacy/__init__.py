"""Steps that protect what is sent, and what each promises."""
