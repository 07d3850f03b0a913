"""`pinwatch top`: `view` is what keys do to it, `frame` draws it, `terminal` has the effects."""
