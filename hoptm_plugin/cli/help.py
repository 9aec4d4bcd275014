"""What the command line says of itself."""

from __future__ import annotations

PROGRAM = "hoptm-bench"
OVERVIEW = f"""\
{PROGRAM}: distil a labelled image data set into a few images per class, and compare methods that do.

commands
  run       experts, distillation, evaluation, result           {PROGRAM} run method=hoptm dataset=digits ipc=1
  plan      what a run would do and how long it would take      {PROGRAM} plan -m method=hoptm,mtt ipc=1,10
  experts   train and store the experts of a run, nothing more  {PROGRAM} experts method=mtt dataset=digits
  tune      the best of some settings, on validation images     {PROGRAM} tune method=mtt dataset=digits over.KEY=1,10
  eval      judge a stored synthetic set                        {PROGRAM} eval synthetic=RUN "networks=[vgg11]"
  import    a set that other software distilled, as a run       {PROGRAM} import images.pt labels.pt dataset=digits
  verify    checksums of a run, and its evaluation once more    {PROGRAM} verify RUN
  audit     what a set gives away of its training images        {PROGRAM} audit RUN
  compare   one table from several runs, differences tested     {PROGRAM} compare runs --format latex
  runs      run folders, how far they are, and their results    {PROGRAM} runs --state interrupted
  report    one HTML page on several runs, to look at and share {PROGRAM} report runs -o report.html
  export    a distilled set for people without this software    {PROGRAM} export RUN --format medmnist
  cite      the BibTeX of what a run would use                  {PROGRAM} cite method=hoptm dataset=pathmnist
  list      methods, data sets, matchers and all other parts    {PROGRAM} list methods

"{PROGRAM} COMMAND --help" explains a command."""

SETTINGS_HELP = f"""\
Settings are KEY=VALUE; later ones win, and all beat the scale, which beats the method's recipe for the data set.

  method=mtt dataset=pathmnist ipc=10 seed=1       choose a method, a data set, images per class, a seed
  dataset=npz dataset.root=FILE                    your own data: an npz in MedMNIST layout
  dataset=folder dataset.root=FOLDER               or image folders train/CLASS/*.png and test/CLASS/*.png
  scale=laptop|workstation|published               20 minutes on two cores, two hours on a GPU, the method's own size;
                                                   your own data take the first on a CPU, the second on a GPU
  network.width=32 network.depth=3                 a smaller ConvNet
  experts.count=10 distillation.iterations=500     a smaller budget
  method.matchers.shape.weight=0.1                 HoP-TM's lambda
  method.matchers.shape=null                       leave a part out
  experts=sgd augment=none                         other experts, no augmentation
  distillation.selection=validation                keep the checkpoint that does best on the validation split
  runtime.device=auto|cpu|cuda  runtime.unroll=full|adjoint|auto  runtime.precision=float32|tf32|bf16
  runtime.compile=auto|true|false  runtime.memory_budget=2GiB  runtime.parallel_networks=auto|8
  experts.training.precision=bf16  protocol.precision=bf16   train experts and evaluated networks in bfloat16
  hydra.run.dir=PATH                               where the run is written
  hydra.run.dir=PATH resume=true                   go on with the run that lies there; auto: begin it if none does
  settings=FILE                                    those of a file such as a tuning's best.yaml, in this place
  -m method=hoptm,mtt ipc=1,10                     all combinations, one after the other
  --cfg job                                        print the settings, recipe included, and stop

"{PROGRAM} list" shows what can be chosen."""

HELP = {
    "run": f"usage: {PROGRAM} run [-m] [--cfg job] [KEY=VALUE ...]\n\nTrain the missing experts, distil, evaluate, "
    f"and write a run folder with the result card.\n\n{SETTINGS_HELP}",
    "plan": f"usage: {PROGRAM} plan [-m] [KEY=VALUE ...]\n\nSay what `run` would do with the same settings and about "
    f"how long each part would take on this machine, from a moment of each; of a sweep as a table with a total, where "
    f"experts that several runs read count once. Nothing is started or written.\n\n"
    f"  {PROGRAM} plan method=hoptm dataset=digits\n"
    f"  {PROGRAM} plan -m method=hoptm,mtt,dm ipc=1,10\n\n{SETTINGS_HELP}",
    "experts": f"usage: {PROGRAM} experts [KEY=VALUE ...]\n\nTrain and store the experts that `run` would read with "
    f"the same settings. An interrupted build goes on at the missing expert.\n\n{SETTINGS_HELP}",
    "tune": f"usage: {PROGRAM} tune over.KEY=VALUE,VALUE [over.KEY=...] [strategy=grid|halving] [KEY=VALUE ...]\n\n"
    f"Try all combinations of the values behind over. and keep the best. Every candidate is an ordinary run with one "
    f"seed and few networks, judged on the validation split: no test image is looked at. Candidates that fail are rows "
    f"like others. Ends with a table, candidates.csv, candidates.svg, best.yaml and the command that runs the best.\n\n"
    f"  {PROGRAM} tune method=mtt dataset=digits over.distillation.images.learning_rate=10,100,1000\n\n"
    f"  over.KEY=1,10,100            values to try; as in a sweep: range(1,5), [a,b],[c], 'quoted, text'\n"
    f"  strategy=halving             all for few iterations, the best third for three times as many, and so on\n"
    f"  seed=100 protocol.repeats=2  of the tuning alone, these unless given\n"
    f"  hydra/launcher=side_by_side  candidates side by side; =processes by joblib, hydra.launcher.n_jobs=4\n"
    f"  hydra.sweep.dir=PATH         where it is written\n"
    f"  hydra.sweep.dir=PATH resume=auto   go on with the tuning that lies there\n\n{SETTINGS_HELP}",
    "eval": f"usage: {PROGRAM} eval synthetic=PATH [KEY=VALUE ...]\n\nTrain fresh networks on a stored synthetic set "
    f"(a run folder, a .safetensors file, or an exported folder) and test them. Settings come from the run the "
    f"set lies in, where it lies in one; otherwise name the data set.\n\n"
    f'  {PROGRAM} eval synthetic=RUN "networks=[convnet,resnet18,vgg11,alexnet]" protocol.repeats=3\n\n{SETTINGS_HELP}',
    "import": f"usage: {PROGRAM} import IMAGES [LABELS [LEARNING_RATE]] [KEY=VALUE ...]\n\n"
    f"Read a set that other software distilled (.pt, .npy, .npz or .safetensors files, or one that holds all of it), "
    f"judge it, and write a run folder that eval, compare, report, export and verify take. The card says that the set "
    f"was imported, and that the data it was distilled from are not known. Nothing in the files is executed. "
    f"docs/import.md says what MTT, FTD, DATM, HoP-TM, DM, IDM and NCFM save.\n\n"
    f"  name=MTT                      what the row is called in tables\n"
    f"  values=normalised             floats are network input, normalised as the data set is here (as a rule)\n"
    f"  mean=[0.49,0.48,0.45] std=[0.2,0.2,0.2]   ... with other constants, which the test images get then as well\n"
    f"  values=whitened               network input whitened by ZCA, which the test images are then as well\n"
    f"  values=pixels                 floats are pixels of [0, 1] (NCFM); uint8 always are\n"
    f"  mosaic=2                      each image is a mosaic of 2x2 images (IDM, NCFM)\n"
    f"  experiment=1                  the second of several sets in a file (DM, IDM)\n"
    f"  step_size=0.02                the learned learning rate, where no file has it (MTT, FTD)\n"
    f"  ipc=10                        images per class, where no labels tell it\n\n{SETTINGS_HELP}",
    "verify": f"usage: {PROGRAM} verify [--checksums] RUN [KEY=VALUE ...]\n\nRecompute the checksums of a finished run "
    f"or evaluation, train its networks again on the stored set, and compare with its card. On the same machine and "
    f"software accuracies are identical; otherwise they must agree within noise: Welch's test at 1 %, Holm-corrected; "
    f"for one network, twice the binomial standard error. Of an exported set, checksums only. Nothing is written. "
    f"Exit code 1: not verified.\n\n"
    f"  --checksums            train nothing\n"
    f"  dataset.root=PATH      where the data are now\n"
    f"  runtime.device=cuda    and the other settings of runtime that change no result but for rounding",
    "audit": f"usage: {PROGRAM} audit RUN [tier=quick|standard|full] [KEY=VALUE ...]\n\nMeasure what a run's set gives "
    f"away of the images it was made from: whether its images lie closer to these than other real images do, and "
    f"whether they point to those they began from. Needs a run that put images aside, dataset.holdout_fraction=0.3. "
    f"Sets of which it is known what must be said of them are audited beside it. Writes RUN/audit.json. No verdict "
    f"proves that nothing leaks. Exit code 1: a leak was found, or the audit is not valid.\n\n"
    f"  {PROGRAM} run method=mtt dataset=digits dataset.holdout_fraction=0.3 hydra.run.dir=runs/mine\n"
    f"  {PROGRAM} audit runs/mine\n\n"
    f"  tier=standard          also whether it can be told who was among the training images, by distilling halves of\n"
    f"                         them anew; what was done is kept, and the same command goes on\n"
    f"  tier=full              32 of these, also with images of a wrong class, which stand for unusual ones\n"
    f"  shadows=16             such distillations, an even number from 8\n"
    f"  processes=2            of the CPU, that distil them at the same time; if left out, one for each core where\n"
    f"                         memory is enough and a minute's work is to be done\n"
    f"  seed=0                 of the audit's own draws\n"
    f"  dataset.root=PATH      where the data are now\n"
    f"  runtime.device=cuda    and the other settings of runtime that change no result but for rounding",
    "cite": f"usage: {PROGRAM} cite [KEY=VALUE ...]\n\nPrint the BibTeX of what a run with these settings would use: "
    f"method, matchers, schedulers, experts, network, augmentation, data set. Reads no data, writes nothing.\n\n"
    f"{SETTINGS_HELP}",
}
