value = struct.pack('<ddd', x, y, z)
