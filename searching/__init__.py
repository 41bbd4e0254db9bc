"""Finding the coefficients of a merge: a loop over recipes of one shape, on a live model that is rewritten in place.

    from evaluation import perplexity
    from searching.live_merge import LiveMerge

    with LiveMerge(recipe) as live:                      # parents opened once, model built once
        before = perplexity(live.model, documents)       # live.model is a LanguageModel; all of evaluation takes it
        live.update(other_recipe)                        # same models, other numbers or another method
        after = perplexity(live.model, documents)

    from searching.gradient import Objective
    from searching.learning import learn                 # exact derivatives, where the method has them

    learnt = learn(live, space, [Objective(search_texts)], [Objective(choice_texts)])
    learnt.recipe, learnt.values, learnt.steps

A `space` has `start`, `low`, `high` (N numbers each) and `recipe(values)`; `gradient.has_derivative` says by which
parameters of a method a score has derivatives.

`perplexity(...).documents` has nats, tokens and bytes of each document, for paired comparisons.
"""
