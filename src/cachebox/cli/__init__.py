"""The command line: ``python -m cachebox``.

`main` parses the arguments and turns failures into exit statuses. Each subcommand is a module, named in
`main.COMMANDS`. `terminal` knows what a stream can display. Only the standard library is needed.
"""
