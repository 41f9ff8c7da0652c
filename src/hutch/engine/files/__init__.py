"""Files of a container, running or ended: read, written, copied, compared, packed.

Everything works on descriptors and on ids that it is given; whose they are is not known here.
"""
