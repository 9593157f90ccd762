"""The embedded simulated Lightning network, which speaks Core Lightning's JSON-RPC."""
