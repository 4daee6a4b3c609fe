package archive

// Vehicle is an event's data of 850 bytes.
func Vehicle(i int) []byte { return vehicle(i) }
