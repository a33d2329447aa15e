# Importing it checks that this interpreter may import the package.
compiler: str
cython: str
options: str
