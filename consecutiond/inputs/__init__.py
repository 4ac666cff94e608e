"""Where values come from: the zmq server, the http server, stdin; and the socket that stops them."""
