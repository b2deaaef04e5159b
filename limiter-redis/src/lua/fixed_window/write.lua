value = struct.pack('<dd', x, y)
