"""Floor 3, the machines: conversations as explicit states; time and entropy are arguments."""
