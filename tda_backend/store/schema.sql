-- The catalogue: what people query. Artifacts are the truth; `tda rebuild` makes all of this again from them.
-- Conventions: positive scores help; regularization is λ in units of the mean Gram F = JᵀJ/n; `position` counts the
-- rows of a split from 0; one configuration never contains λ. Every table but `meta` carries study_id.

CREATE TABLE meta (key VARCHAR, value VARCHAR);
COMMENT ON TABLE meta IS 'Facts about this file';
COMMENT ON COLUMN meta.key IS 'schema_version, created, program_version';

CREATE TABLE studies (
    study_id VARCHAR, name VARCHAR, plan_key VARCHAR, task VARCHAR, created TIMESTAMP, config JSON, info JSON,
    num_train INTEGER, num_validation INTEGER, num_queries INTEGER, num_subsets INTEGER, steps_total INTEGER);
COMMENT ON TABLE studies IS 'A task, a grid of hyper-parameters, ground-truth settings and seeds';
COMMENT ON COLUMN studies.study_id IS 'First 12 hex digits of the SHA-256 of the resolved study';
COMMENT ON COLUMN studies.name IS 'A name means the newest study of that name';
COMMENT ON COLUMN studies.plan_key IS 'Hash of all step keys: changes when the task''s code or a step version changes';
COMMENT ON COLUMN studies.config IS 'The resolved study file';
COMMENT ON COLUMN studies.info IS 'What pages show beside it: class names, measurement, training settings, machine';
COMMENT ON COLUMN studies.num_subsets IS 'Retrained subsets per α when the study is complete';
COMMENT ON COLUMN studies.steps_total IS 'Number of steps of the plan; `ingested` counts the finished ones';

CREATE TABLE tasks (
    study_id VARCHAR, name VARCHAR, spec VARCHAR, fingerprint VARCHAR, num_classes INTEGER, class_names VARCHAR[],
    measurement_sign INTEGER, margin_identity BOOLEAN, training JSON);
COMMENT ON TABLE tasks IS 'What is attributed';
COMMENT ON COLUMN tasks.spec IS 'How to load it again: built-in name, package.module:factory or file.py:factory';
COMMENT ON COLUMN tasks.fingerprint IS 'SHA-256 of the task''s source and of its data';
COMMENT ON COLUMN tasks.measurement_sign IS '+1 where a larger measurement is better, -1 where smaller is better';
COMMENT ON COLUMN tasks.margin_identity IS 'True when the loss gradient is -(1-p) times the gradient of the margin';

CREATE TABLE examples (
    study_id VARCHAR, split VARCHAR, position INTEGER, "index" INTEGER, label VARCHAR, kind VARCHAR, caption VARCHAR,
    image BLOB, "text" VARCHAR);
COMMENT ON TABLE examples IS 'Training, validation, query and test examples as they are displayed';
COMMENT ON COLUMN examples.split IS 'train, validation, queries or test (the whole test set)';
COMMENT ON COLUMN examples.position IS 'Row of the split from 0; axis of score matrices';
COMMENT ON COLUMN examples."index" IS 'Index in the task''s data set (train: its train set; others: its test set)';
COMMENT ON COLUMN examples.kind IS 'image (PNG in image), text (text) or row (JSON in text)';

CREATE TABLE predictions (
    study_id VARCHAR, seed_index INTEGER, split VARCHAR, "index" INTEGER, prediction VARCHAR, goodness FLOAT,
    loss FLOAT);
COMMENT ON TABLE predictions IS 'What the final checkpoint of each training seed says of each example';
COMMENT ON COLUMN predictions.split IS 'train or test';
COMMENT ON COLUMN predictions.goodness IS 'measurement_sign times the measurement: larger is better';

CREATE TABLE checkpoints (
    study_id VARCHAR, seed_index INTEGER, training_epoch INTEGER, learning_rate DOUBLE, artifact VARCHAR, file VARCHAR);
COMMENT ON TABLE checkpoints IS 'Saved parameters: where attribution features are taken';
COMMENT ON COLUMN checkpoints.learning_rate IS 'Learning rate in force at that epoch''s end (η of TracIn)';

CREATE TABLE configurations (
    study_id VARCHAR, configuration_id VARCHAR, method VARCHAR, title VARCHAR, training_epoch INTEGER,
    projection_dim INTEGER, parameters JSON, label VARCHAR, has_regularization BOOLEAN, num_seeds INTEGER,
    num_sources INTEGER, ordinal INTEGER);
COMMENT ON TABLE configurations IS 'One attribution configuration: everything but λ';
COMMENT ON COLUMN configurations.projection_dim IS 'Random projection dimension k; NULL: unprojected, exact';
COMMENT ON COLUMN configurations.num_sources IS 'Spectra (or score matrices) it is the ensemble of';

CREATE TABLE spectra (
    study_id VARCHAR, configuration_id VARCHAR, seed_index INTEGER, kind VARCHAR, num_eigenvalues INTEGER,
    num_cut INTEGER, eigenvalues DOUBLE[], artifact VARCHAR);
COMMENT ON TABLE spectra IS 'One row per training seed of a configuration; coordinates lie in the artifact';
COMMENT ON COLUMN spectra.kind IS 'Step that made it: spectrum, curvature or kronecker; scores without λ';
COMMENT ON COLUMN spectra.num_cut IS 'Eigenvalues that the pseudo-inverse at λ = 0 leaves out (σ ≤ n·ε·σ_max)';
COMMENT ON COLUMN spectra.eigenvalues IS 'Of the mean curvature, descending by block; relative to the block''s mean under relative damping';

CREATE TABLE lds (
    study_id VARCHAR, configuration_id VARCHAR, alpha DOUBLE, regularization DOUBLE, mean DOUBLE, ci_low DOUBLE,
    ci_high DOUBLE, num_undefined INTEGER, num_subsets INTEGER, is_selected BOOLEAN);
COMMENT ON TABLE lds IS 'Linear datamodelling score: mean over queries with a 95 % bootstrap interval over subsets';
COMMENT ON COLUMN lds.regularization IS 'λ; NULL for methods without one';
COMMENT ON COLUMN lds.num_undefined IS 'Queries dropped because a rank correlation has no value (constant side)';
COMMENT ON COLUMN lds.num_subsets IS 'Retrained subsets behind this number; fewer while a study is running';
COMMENT ON COLUMN lds.is_selected IS 'True for the row at λ*, false for the grid';

CREATE TABLE lds_query (
    study_id VARCHAR, configuration_id VARCHAR, alpha DOUBLE, regularization DOUBLE, num_subsets INTEGER, lds FLOAT[]);
COMMENT ON TABLE lds_query IS 'LDS of every query; element i (1-based) belongs to query position i-1; NaN: undefined';

CREATE TABLE indicator (
    study_id VARCHAR, configuration_id VARCHAR, regularization DOUBLE, mean DOUBLE, q05 DOUBLE, q25 DOUBLE, q50 DOUBLE,
    q75 DOUBLE, q95 DOUBLE, num_dropped INTEGER, is_selected BOOLEAN);
COMMENT ON TABLE indicator IS 'Surrogate indicator ξ over the validation points';
COMMENT ON COLUMN indicator.num_dropped IS 'Validation points without a value (no component in the spectrum)';

CREATE TABLE selections (
    study_id VARCHAR, configuration_id VARCHAR, alpha DOUBLE, lambda_selected DOUBLE, xi_at_selected DOUBLE,
    threshold DOUBLE, num_crossings INTEGER, warnings VARCHAR[], lds_selected DOUBLE, lds_selected_low DOUBLE,
    lds_selected_high DOUBLE, lambda_best DOUBLE, lds_best DOUBLE, regret DOUBLE, lds_at_zero DOUBLE, quantiles JSON,
    num_subsets INTEGER);
COMMENT ON TABLE selections IS 'λ* of Algorithm 1 beside the spectrum quantiles and the best λ of grid and λ*';
COMMENT ON COLUMN selections.regret IS 'lds_best - lds_selected, never negative';
COMMENT ON COLUMN selections.quantiles IS 'quantile → {lambda, lds, regret}';

CREATE TABLE rules (
    study_id VARCHAR, configuration_id VARCHAR, alpha DOUBLE, "rule" VARCHAR, regularization DOUBLE, lds DOUBLE,
    regret DOUBLE, num_retrainings INTEGER);
COMMENT ON TABLE rules IS 'What each rule for λ chose in each configuration, and what it lost against the best';
COMMENT ON COLUMN rules."rule" IS 'zero, default (of the papers), q0.5 (spectrum quantile), xi0.5 (threshold), racing, oracle';
COMMENT ON COLUMN rules.num_retrainings IS 'Retrainings that the choice needed';

CREATE TABLE tuning (
    study_id VARCHAR, alpha DOUBLE, what VARCHAR, method VARCHAR, among VARCHAR, "rule" VARCHAR, chosen VARCHAR,
    configuration_id VARCHAR, lds DOUBLE, regret DOUBLE);
COMMENT ON TABLE tuning IS 'What rules without retraining chose among epochs, or projection dimensions, with λ by ξ';
COMMENT ON COLUMN tuning.what IS 'training_epoch or projection_dim';
COMMENT ON COLUMN tuning.among IS 'What the configurations have in common';
COMMENT ON COLUMN tuning."rule" IS 'last (the papers''), lowest-loss, progress; default (512, the papers''), widest';
COMMENT ON COLUMN tuning.regret IS 'Against the best of them, each at its own λ*';

CREATE TABLE races (
    study_id VARCHAR, alpha DOUBLE, configuration_id VARCHAR, regularization DOUBLE, lds DOUBLE, regret DOUBLE,
    num_candidates INTEGER, num_retrainings INTEGER, num_subsets INTEGER, decided BOOLEAN, sentence VARCHAR);
COMMENT ON TABLE races IS 'All configurations and λ raced over the study''s retrainings: the winner and what it took';
COMMENT ON COLUMN races.decided IS 'The winner is within the tolerance of the best at the confidence asked for';

CREATE TABLE verdicts (
    study_id VARCHAR, claim_id VARCHAR, paper VARCHAR, place VARCHAR, statement VARCHAR, check_name VARCHAR,
    verdict VARCHAR, value DOUBLE, low DOUBLE, high DOUBLE, bound DOUBLE, numbers VARCHAR[], comparisons JSON, note VARCHAR,
    configuration_ids VARCHAR[], num_subsets INTEGER);
COMMENT ON TABLE verdicts IS 'What a paper states, and whether this study''s figures show it';
COMMENT ON COLUMN verdicts.verdict IS 'reproduced, not reproduced or inconclusive (95 % intervals over subsets)';
COMMENT ON COLUMN verdicts.value IS 'The comparison nearest to its bound (or farthest beyond it); low and high: 95 %';
COMMENT ON COLUMN verdicts.configuration_ids IS 'What was compared, the left side first';
COMMENT ON COLUMN verdicts.comparisons IS 'The same as a list: left, left_value, operator, right, right_value, value …';
COMMENT ON COLUMN verdicts.numbers IS 'Every comparison in words, with its numbers';

CREATE TABLE removals (
    study_id VARCHAR, configuration_id VARCHAR, label VARCHAR, regularization DOUBLE, query INTEGER, size INTEGER,
    available INTEGER, num_seeds INTEGER, mean_correct DOUBLE, mean_goodness DOUBLE, flipped BOOLEAN);
COMMENT ON TABLE removals IS 'Retraining without the most helpful training examples of a query; size 0: trained on everything';
COMMENT ON COLUMN removals.configuration_id IS 'Who said what helps; NULL: random examples of the query''s class';
COMMENT ON COLUMN removals.label IS 'Configuration and λ in words; one curve each';
COMMENT ON COLUMN removals.size IS 'How many examples were removed; a query that has flipped is not retrained again';
COMMENT ON COLUMN removals.available IS 'Examples that could be removed: those with a positive score (or of the query''s class)';
COMMENT ON COLUMN removals.mean_correct IS 'Share of the retrained seeds that predict the query right; NULL without classes';
COMMENT ON COLUMN removals.flipped IS 'True where fewer than half of the seeds predict it right';

CREATE TABLE loo_effects (
    study_id VARCHAR, position INTEGER, num_seeds INTEGER, effects FLOAT[], standard_errors FLOAT[]);
COMMENT ON TABLE loo_effects IS 'What leaving out one training example really did: mean over seeds of f(D) - f(D without it)';
COMMENT ON COLUMN loo_effects.position IS 'Training position left out';
COMMENT ON COLUMN loo_effects.effects IS 'Effect on the goodness of every query; element i (1-based) is query i-1';
COMMENT ON COLUMN loo_effects.standard_errors IS 'Of those means, over seeds; NaN with one seed';

CREATE TABLE loo_scores (
    study_id VARCHAR, configuration_id VARCHAR, regularization DOUBLE, mean DOUBLE, ci_low DOUBLE, ci_high DOUBLE,
    per_example DOUBLE, ceiling DOUBLE, num_undefined INTEGER, num_examples INTEGER, is_selected BOOLEAN);
COMMENT ON TABLE loo_scores IS 'Spearman correlation of scores with leave-one-out effects, mean over queries';
COMMENT ON COLUMN loo_scores.ci_low IS 'ci_low to ci_high: 95 % bootstrap over the examples left out';
COMMENT ON COLUMN loo_scores.per_example IS 'The same correlation over queries, mean over the examples left out';
COMMENT ON COLUMN loo_scores.ceiling IS 'What perfect scores could reach, given the noise between seeds';

CREATE TABLE noisy_labels (
    study_id VARCHAR, configuration_id VARCHAR, regularization DOUBLE, is_selected BOOLEAN, auc DOUBLE,
    auc_low DOUBLE, auc_high DOUBLE, recall FLOAT[], recall_low FLOAT[], recall_high FLOAT[], num_flipped INTEGER);
COMMENT ON TABLE noisy_labels IS 'Finding wrong labels by self-influence, highest first';
COMMENT ON COLUMN noisy_labels.auc IS 'Area under the ROC curve; .5 is chance; auc_low to auc_high: 95 % over examples';
COMMENT ON COLUMN noisy_labels.recall IS 'Share of wrong labels among the first 10, 20 … 90 % inspected';

CREATE TABLE noisy_rows (study_id VARCHAR, position INTEGER, original_label VARCHAR);
COMMENT ON TABLE noisy_rows IS 'Training positions whose label is known to be wrong';
COMMENT ON COLUMN noisy_rows.original_label IS 'Label before the study flipped it; NULL where the task does not say';

CREATE TABLE trajectory_runs (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, optimizer VARCHAR, num_steps INTEGER,
    steps_per_epoch INTEGER, num_parameters INTEGER, rates FLOAT[], steps INTEGER[], losses FLOAT[]);
COMMENT ON TABLE trajectory_runs IS 'Training runs that were recorded and unrolled';
COMMENT ON COLUMN trajectory_runs.learning_rate IS 'η₀ of the run; rates has η of every step';
COMMENT ON COLUMN trajectory_runs.optimizer IS 'In words, as AdamW (betas 0.9, 0.95)';
COMMENT ON COLUMN trajectory_runs.losses IS 'Mean loss of the queries after steps[i] steps';

CREATE TABLE trajectory_agreement (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, assumed VARCHAR, curvature VARCHAR, variant VARCHAR,
    mean DOUBLE, ci_low DOUBLE, ci_high DOUBLE, num_removed INTEGER, num_queries INTEGER, num_undefined INTEGER);
COMMENT ON TABLE trajectory_agreement IS 'Spearman correlation over removed examples of predicted and true effects, mean over queries';
COMMENT ON COLUMN trajectory_agreement.seed_index IS 'NULL: mean over seeds';
COMMENT ON COLUMN trajectory_agreement.assumed IS 'as trained, or sgd: the optimizer that the prediction assumes';
COMMENT ON COLUMN trajectory_agreement.curvature IS 'Second derivative of a batch: hessian, gauss-newton, fisher or none';
COMMENT ON COLUMN trajectory_agreement.variant IS 'Truth: fixed (batch size kept in the mean) or smaller (one less)';
COMMENT ON COLUMN trajectory_agreement.ci_low IS 'ci_low to ci_high: 95 % bootstrap over removed examples';

CREATE TABLE trajectory_gains (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, curvature VARCHAR, variant VARCHAR, matched DOUBLE,
    mismatched DOUBLE, difference DOUBLE, difference_low DOUBLE, difference_high DOUBLE, ratio DOUBLE,
    ratio_low DOUBLE, ratio_high DOUBLE);
COMMENT ON TABLE trajectory_gains IS 'What it brings to assume the optimizer as trained instead of SGD, in pairs';
COMMENT ON COLUMN trajectory_gains.seed_index IS 'NULL: mean over seeds';

CREATE TABLE trajectory_effects (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, query INTEGER, positions INTEGER[], truth FLOAT[],
    truth_smaller FLOAT[], predicted FLOAT[], predicted_sgd FLOAT[], proxy FLOAT[], cheap FLOAT[]);
COMMENT ON TABLE trajectory_effects IS 'Effect of removing one training example on the loss of one query; positive: it helps';
COMMENT ON COLUMN trajectory_effects.query IS 'NULL: mean over all queries; the first queries also one by one';
COMMENT ON COLUMN trajectory_effects.positions IS 'Training positions removed, one at a time; axis of the other lists';
COMMENT ON COLUMN trajectory_effects.proxy IS 'Second-order estimate of truth - predicted, without retraining; cheap: its first term';

CREATE TABLE trajectory_errors (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, step INTEGER, mean_effect DOUBLE, mean_error DOUBLE,
    relative_error DOUBLE, error_low DOUBLE, error_high DOUBLE, estimator VARCHAR, pearson DOUBLE, pearson_low DOUBLE,
    pearson_high DOUBLE, spearman DOUBLE, spearman_low DOUBLE, spearman_high DOUBLE, slope DOUBLE,
    num_removed INTEGER);
COMMENT ON TABLE trajectory_errors IS 'How the error of the prediction grows with the steps, and how well an estimate follows it';
COMMENT ON COLUMN trajectory_errors.step IS 'Steps trained: effects on the mean loss of the queries after them';
COMMENT ON COLUMN trajectory_errors.relative_error IS 'mean |truth - predicted| / mean |truth|, over removed examples seen by then';
COMMENT ON COLUMN trajectory_errors.estimator IS 'proxy (full second order), cheap (its first term), or sound: the proxy at the end, where it is at most half of the prediction';
COMMENT ON COLUMN trajectory_errors.num_removed IS 'Removed examples behind the row: those seen by then, for sound those with a small proxy';
COMMENT ON COLUMN trajectory_errors.slope IS 'Of estimate against real error, least squares through 0';

CREATE TABLE trajectory_paths (
    study_id VARCHAR, learning_rate DOUBLE, seed_index INTEGER, position INTEGER, sound BOOLEAN, seen INTEGER[],
    steps INTEGER[], truth FLOAT[], predicted FLOAT[], proxy FLOAT[], cheap FLOAT[]);
COMMENT ON TABLE trajectory_paths IS 'Effect of one training example on the mean loss of the queries, over the steps of the run';
COMMENT ON COLUMN trajectory_paths.sound IS 'The proxy is at most half of the prediction, in the mean over queries: the second order is a correction of the first';
COMMENT ON COLUMN trajectory_paths.seen IS 'Steps (from 1) whose batch holds it';
COMMENT ON COLUMN trajectory_paths.steps IS 'Steps trained; axis of truth, predicted, proxy and cheap';

CREATE TABLE lookahead_runs (
    study_id VARCHAR, strategy VARCHAR, horizon INTEGER, learning_rate DOUBLE, seed_index INTEGER, fraction DOUBLE,
    num_steps INTEGER, split VARCHAR, loss DOUBLE, accuracy DOUBLE, gradient_evaluations BIGINT,
    hessian_products BIGINT, relative_cost DOUBLE, seconds DOUBLE);
COMMENT ON TABLE lookahead_runs IS 'Training on examples selected while training, one row a run and split';
COMMENT ON COLUMN lookahead_runs.strategy IS 'look-ahead, look-ahead (sgd), alignment, random or full';
COMMENT ON COLUMN lookahead_runs.horizon IS 'K: steps looked ahead; NULL where the strategy has none';
COMMENT ON COLUMN lookahead_runs.fraction IS 'Share of each batch that is kept';
COMMENT ON COLUMN lookahead_runs.split IS 'selection (its gradient selects), tuning (chooses K and learning rate) or test (seen by neither)';
COMMENT ON COLUMN lookahead_runs.gradient_evaluations IS 'Examples differentiated, selection included';
COMMENT ON COLUMN lookahead_runs.relative_cost IS 'Operations relative to training on all examples';

CREATE TABLE lookahead_curves (
    study_id VARCHAR, strategy VARCHAR, horizon INTEGER, learning_rate DOUBLE, seed_index INTEGER, steps INTEGER[],
    tuning_losses FLOAT[], test_losses FLOAT[]);
COMMENT ON TABLE lookahead_curves IS 'Losses of the same runs while they train';

CREATE TABLE lookahead_tuned (
    study_id VARCHAR, strategy VARCHAR, horizon INTEGER, learning_rate DOUBLE, tuning_loss DOUBLE, test_loss DOUBLE,
    loss_low DOUBLE, loss_high DOUBLE, test_accuracy DOUBLE, accuracy_low DOUBLE, accuracy_high DOUBLE,
    num_seeds INTEGER);
COMMENT ON TABLE lookahead_tuned IS 'Each strategy with the K and learning rate of its lowest loss on the tuning set';
COMMENT ON COLUMN lookahead_tuned.loss_low IS 'loss_low to loss_high: 95 % over seeds and test examples, given what was chosen';

CREATE TABLE lookahead_gains (
    study_id VARCHAR, strategy VARCHAR, against VARCHAR, loss_gain DOUBLE, loss_low DOUBLE, loss_high DOUBLE,
    accuracy_gain DOUBLE, accuracy_low DOUBLE, accuracy_high DOUBLE);
COMMENT ON TABLE lookahead_gains IS 'Tuned strategies compared on the test set in pairs of seeds and test examples; positive: strategy is better';

CREATE TABLE lookahead_examples (
    study_id VARCHAR, strategy VARCHAR, horizon INTEGER, learning_rate DOUBLE, position INTEGER, times_seen INTEGER,
    times_kept INTEGER, mean_score DOUBLE);
COMMENT ON TABLE lookahead_examples IS 'Which training examples the tuned strategies kept and dropped, over all seeds';
COMMENT ON COLUMN lookahead_examples.mean_score IS 'Mean over the times seen; positive: training on it lowers the loss of the selection set';

CREATE TABLE retrainings (
    study_id VARCHAR, alpha DOUBLE, subset_index INTEGER, repeat INTEGER, subset_size INTEGER, mean_goodness FLOAT,
    artifact VARCHAR);
COMMENT ON TABLE retrainings IS 'Models retrained on random subsets; outputs per test example lie in the artifact';
COMMENT ON COLUMN retrainings.mean_goodness IS 'Mean goodness over the whole test set';

CREATE TABLE top_examples (
    study_id VARCHAR, configuration_id VARCHAR, query INTEGER, regularization DOUBLE, helpful INTEGER[],
    helpful_scores FLOAT[], harmful INTEGER[], harmful_scores FLOAT[]);
COMMENT ON TABLE top_examples IS 'Training positions with the highest and lowest scores of each query at λ*';
COMMENT ON COLUMN top_examples.helpful IS 'Training positions, most helpful first';
COMMENT ON COLUMN top_examples.harmful IS 'Training positions, most harmful first';

CREATE TABLE timings (
    study_id VARCHAR, step VARCHAR, label VARCHAR, seconds DOUBLE, peak_memory_mib DOUBLE, bytes BIGINT,
    finished TIMESTAMP, device VARCHAR);
COMMENT ON TABLE timings IS 'What each step cost when it was computed; peak_memory_mib is of the process so far';

CREATE TABLE jobs (
    study_id VARCHAR, job_id VARCHAR, status VARCHAR, started TIMESTAMP, finished TIMESTAMP, steps_computed INTEGER,
    steps_cached INTEGER, seconds DOUBLE, message VARCHAR);
COMMENT ON TABLE jobs IS 'Runs that ended; running ones are files in the workspace';

CREATE TABLE ingested (study_id VARCHAR, artifact VARCHAR, label VARCHAR, ingested TIMESTAMP);
COMMENT ON TABLE ingested IS 'Finished steps of each study whose results are in this catalogue';

CREATE VIEW lds_per_query AS
    SELECT study_id, configuration_id, alpha, regularization, num_subsets,
           unnest(range(len(lds)))::INTEGER AS query, unnest(lds) AS lds
    FROM lds_query;
COMMENT ON VIEW lds_per_query IS 'lds_query, one row per query';
