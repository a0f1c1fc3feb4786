"""What `demo.py` is made of: frames from a source in; poses as pictures, films, JSON or a page out."""
