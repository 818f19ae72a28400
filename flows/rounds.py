from contextlib import contextmanager
@contextmanager
def round_run(number, of):
    yield
