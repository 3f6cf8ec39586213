"""
`headrace top`: the live page's figures in a terminal, over the admin socket.

    client.py   asks a daemon's /admin/api
    text.py     views as columns and rows of text. Pure
    app.py      the program, with Textual; imported by nobody else
    command.py  the command: the program, or one look (`--once`), or JSON
"""
