"""What imports made stays as long as its process: garbage collections leave it out."""

import gc


def keep_imported() -> None:
    """Leave what there is out of later collections, once in a process.

    Over what torch and transformers make, a collection takes 0.3 s, and the Trainer asks for one at each training. A
    second call would keep a first run's models in a kernel.
    """
    if not gc.get_freeze_count():
        gc.freeze()
