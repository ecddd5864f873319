"""How bytes come in: the guard below the application, where a request is not one yet."""
