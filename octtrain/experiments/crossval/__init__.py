"""Cross-validation: every patient of shards in folds is predicted once, by models that were not exposed to them.

For every fold k, and every seed, one model is trained without it: it validates on fold k + 1 (the first after the
last), to select its best epoch, and trains on the others. So not even the choice of the epoch has seen the patients
that are predicted. Where the epoch is selected on the fold that is then predicted, results are too good (Varma and
Simon, BMC Bioinformatics 7:91, 2006).

    DIR/settings.json                  what is computed: written first
    DIR/fold0-seed0/ ...               a run folder of each training, as `octtrain fit` makes it
    DIR/crossval.json                  metrics of the pooled predictions, by fold and by seed
    DIR/predictions-out-of-fold.csv    the pooled predictions: of every image the mean over the seeds
"""
