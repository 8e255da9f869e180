"""What model servers tell of their KV caches: decoding, sequence, block keys, the index. No I/O, no clock."""
