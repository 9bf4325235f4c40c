import os

# pydantic would look for plugins in every package there is: a fiftieth of the time of a repro with nothing to do.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
