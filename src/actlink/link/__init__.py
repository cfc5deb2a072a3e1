"""Network faults at will. Law: what happens to a packet follows from the seed and the packet's number, on any machine."""
