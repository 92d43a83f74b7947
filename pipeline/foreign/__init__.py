"""Images from anywhere, scored as our own are: another system's samples get the same figures and the same passport.

Nothing is sampled here and no graph is built; ``pipeline.scoring`` does the arithmetic. Reading order: ``images`` (the
words, and which kind of source an address is), ``listed_images`` (folders, tars, shards), ``npz_images`` (ADM's
format), ``stored_images`` (our own data sets), ``resizing``, ``measuring`` (images to features, on any number of
workers), ``references`` (what the samples are compared with, kept between calls), and ``judgement``, the one call.
"""
