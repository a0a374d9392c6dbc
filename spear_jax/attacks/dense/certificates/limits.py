"""Every number that a verdict hangs on, with its reason.

What counts as zero is the noise model's (`numerics`); what "exact" and "approximate" mean to whoever reads a
certificate stands beside it (`types`), and is named here too.
"""

from spear_jax.types import ERROR_MARGIN as ERROR_MARGIN
from spear_jax.types import MAX_APPROXIMATE_ERROR as MAX_APPROXIMATE_ERROR
from spear_jax.types import MAX_ERROR as MAX_ERROR

# Patterns (`pattern`).
# Share of the live entries of a sample whose pattern the noise must leave decided for a certificate to mean anything.
MIN_DECIDED = 0.9
# The same for what is called approximate: fewer are decided, all of them must agree.
MIN_LOOSELY_DECIDED = 0.2
# A wrong sample agrees with a live entry by chance half of the time: with fewer entries than these, luck certifies.
MIN_ENTRIES = 32
# A true column has non-zero entries below the zero tolerance by chance; more than this tail probability is no chance.
CHANCE = 1e-4
# Leverage of a row among the zero rows of a direction: at 1 the direction rests on that row alone. True directions
# reached 0.65 (b = 20, m = 200), mixtures of two or more columns have 1 or leave a further direction open.
MAX_LEVERAGE = 0.95
# Singular values of zero rows, relative to the largest, that count for their rank.
MIN_SINGULAR = 1e-6
# Share of neurons that may have gone farther than `movement` says: one in 200 at most was seen. A mixture of two
# columns contradicts a quarter, unless the neurons of one are nearly all among the other's.
MAX_RETURNED = 0.02
# Agreement of two patterns that have nothing to do with one another is as good at most this often.
MAX_COINCIDENCE = 1e-9
# Share of the active neurons of each sample that a mask silences where there is one.
MIN_DROPPED = 0.02

# Error bars (`error_bars`).
# Squared singular value below which the zero rows of a direction hold it against no rival: far above rounding.
MIN_HELD, LOOSELY_HELD = 1e-10, 0.05
# Relative error of an input that was rounded to the client's dtype, in units of that dtype: a quarter is typical.
ROUNDED_INPUT = 0.25
# Steps of Lanczos' method behind the error of a direction; an estimate within a factor of two is enough.
LANCZOS_STEPS = 12

# The network (`network`).
# Margin of the network certificate over noise and rounding of one unit; a wrong sample is 1 away.
NETWORK_MARGIN = 64.0
# A distance this many times the tolerance is a plain no: large logits alone bring right samples to ten times.
REFUSED = 100.0
# A pre-activation within so many client roundings of zero, relative to what is summed up, may have fired or not.
OPEN = 8.0
# A label whose gradient, of unit norm, is this far from the column space fits no input within `MAX_ERROR` either.
FAR_LABEL = 100 * MAX_ERROR

# Each sample by itself (`by_itself`).
# The true error is up to this many times the misfit over its growth, or what its row leaves: below 2 in 26 of 27
# batches of photos (1844 samples, float32 and float64, one and six hidden layers), 23 in one.
ITSELF_MARGIN = 8.0
# One neuron that fires wrongly moves a sample's gradient, of unit norm, by 1 / sqrt m or so: less than this share of it
# is none.
NEURON_SHARE = 0.25
# Random errors that the misfit must grow with.
TAINTS = 2
# Samples that must share a weight before it speaks for each of them.
MIN_AGREEING = 3
# And the share of them that must: where half of them are mixtures of one share, the others disagree.
AGREEING = 0.75

# The next layer's gradient (`next_layer`).
# Equations beyond the unknowns that the fit must have left over to say anything.
MIN_SURPLUS = 16
# The null vector must be alone: the next singular value is so many times its own.
MIN_SEPARATION = 1e3
# Every other sample must show on the rows where one is off: least singular value there, in units of the noise floor.
SHOWN = 8.0

# Scale (`scale`).
# A factor this many of its expected errors away from another is another one.
DEVIATES = 8.0

# Means of several samples (`means`).
# Shares of the loss are whole multiples of one another within this, or nothing is counted.
MAX_SHARE_ERROR = 0.1
# Farther from whole than this a share is no single label's; nearer, its noise was underrated.
PLAINLY_ODD = 1e-2
# Share of the confirmed samples whose counts must be whole for any count to mean something: where the client clips
# sample by sample none is.
MOST_SHARES = 0.5
# Copies of one input that are counted.
MOST_COPIES = 64

# Contradictions (`contradiction`).
# Share of the directions that must follow from their zeros for all to count as found.
MOST_DETERMINED = 0.9
# Share of the neurons that a threshold of their own must explain, and standard deviations beyond chance that are plain.
MOST_SEPARABLE, PLAIN = 0.99, 6.0

# Share of the entries that disagree with the model's own thresholds, at the best scale of each sample, from which the
# thresholds are others: BatchNorm leaves 0.17 to 0.23, local steps and inputs of a wrong scale 0.09 at most.
OTHER_THRESHOLDS = 0.12

# Roots of the span equations (`root`).
# Chi squared per degree of freedom of a root; true ones under noise show 0.8 to 1.6.
ROOT_MISFIT = 1.5
# So much more where all of the variance is rounding of the client, of which only the order is known: long sums round
# more.
ROUNDED_MISFIT = 100.0
# So much more where the noise is the rounding of the gradients, up to so many units of their norm: it grows with the
# entries, and true roots of photos in float32 show up to 3.
UNEVEN_MISFIT, ROUNDED_NOISE = 6.0, 4.0
# But not in a valley, where a root that is none is off by little too: behind sigmoid, all but linear, 1e4 to 6e4.
UNEVEN_CONDITION = 5e3
# Ratio of the largest to the smallest whitened singular value: 5 to 400 are typical, near-duplicates show 7e4 at most,
# a line of roots 1e9.
ROOT_CONDITION = 1e6
# Chi squared rises by what the bar says at three deviations, within this factor: true roots show 0.9 to 1.02 at noise
# of a tenth, the valley of an activation that is all but linear 0.8 to 1.5.
ROOT_PROFILE = 1.1
# Times the largest singular value of the noise that the smallest of the gradients' own must be for bars to hold: below
# that the spaces themselves turn, and errors are 1.6 to 3 times as large (noise of a fifth and more).
ROOT_STRENGTH = 5.0
# The gradient of a sample leaves the column space by so many times what is expected; that of another root by a share
# of one.
ROOT_MARGIN = 8.0
# Equations beyond the unknowns that a root must have, of those that say anything on the samples' plane.
ROOT_SURPLUS = 4.0
# Times by which the bar may grow without any one neuron, and share of what holds a direction that noise may feign.
ROOT_WITHOUT_ONE, ROOT_FEIGNED = 4.0, 0.25
# By how much a bar is longer where all of the error lies along one direction: that exceeds twice its size once in 20.
ROOT_SINGLE = 0.65
# Times the residual of a root that its mirror image's must be.
ROOT_MIRROR = 100.0
# Error bars beyond which the root of another activation is another one.
ROOT_ELSEWHERE = 2.0

# Batches that explain both gradients together (`jointly`).
# Distance of a sample's gradients from what the next layer's say, over what is expected: true ones show 0.7 to 1.8,
# wrong minima 2 to 1e4, most of them above 4; and that expectation, relative to the gradients, from which it says
# nothing.
JOINT_APART, JOINT_BLUR = 1.5, 0.5
# Share of the samples that must pass before any does: in a wrong minimum at most 4 of 20 pass by chance, with bars 4 to
# 12 times too small.
JOINT_SHARE = 0.75
# Up to this distance a sample in such company is a picture without a bar, and up to this expected error.
JOINT_PICTURE, JOINT_RECOGNISED = 2.5, 0.5
# Two samples of which the derivatives of a kinked activation differ by less than this share of their size hold each
# other by few neurons, and a kink on the wrong side lets both go: bars were 4 to 24 times too small.
JOINT_ALIKE = 0.1
