# Nothing in it: importing it checks that this interpreter may import the package.
