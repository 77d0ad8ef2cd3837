"""How clients answer."""
