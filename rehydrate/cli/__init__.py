"""The command line of `rehydrate`: options in, text or JSON out. What is done stands one package above."""
