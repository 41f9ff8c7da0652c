"""An EROFS image that holds only the names of a layer: the content of its files stays in the layer's tar.

The format is Linux's (Documentation/filesystems/erofs.rst; fs/erofs/erofs_fs.h): blocks of 512 bytes, which are tar's, so that
a file's content can be named by a "chunk" in a second device, which is the tar. Nothing is compressed.
"""
