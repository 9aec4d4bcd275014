"""Contracts of what a method is made of: labels, initial images, augmentation, networks, data sets."""

from __future__ import annotations

import json
from typing import ClassVar, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.testing import assert_close

from hoptm_plugin.core.interfaces import (
    Augmentation,
    DatasetReader,
    ImagesAre,
    Initialiser,
    LabelPolicy,
    NetworkBuilder,
    Task,
    augmentations,
    datasets,
    initialisers,
    label_policies,
    networks,
)
from hoptm_plugin.core.seeding import Seeds
from hoptm_plugin.data.geometry import decoded
from hoptm_plugin.data.preprocess import Preprocess
from hoptm_plugin.networks import FlatNetwork, create, features, network_problems
from hoptm_plugin.networks.needs import Need
from hoptm_plugin.runtime.randomness import seeded
from hoptm_plugin.testing.contract import Contract, Spec, TaskContract, same
from hoptm_plugin.testing.examples import all_real
from hoptm_plugin.trajectory.initial import class_major
from hoptm_plugin.trajectory.student import StudentStep

SQUARES = Preprocess(image_size=32)  # of pictures whose sizes differ


class LabelPolicyContract(TaskContract):
    """What every label policy must satisfy."""

    registry = label_policies

    def use(self, part: LabelPolicy, step: int) -> Tensor:
        """Return labels for the first training images."""
        return self._labels(part, self.task(seed=step))

    def test_labels_have_a_type_that_can_be_trained_on(self, spec: Spec) -> None:
        """Labels are int64 class indices (n,), or finite float logits (n, K) in the images' precision."""
        policy, task = self.build(spec), self.task()
        labels, classes = self._labels(policy, task), len(task.data.class_names)
        if labels.is_floating_point():
            assert labels.shape == (classes * task.ipc, classes)
            assert labels.dtype == task.train.images.dtype
            assert torch.isfinite(labels).all()
        else:
            assert labels.dtype == torch.int64
            assert labels.shape == (classes * task.ipc,)
            assert bool(((labels >= 0) & (labels < classes)).all())
        assert not labels.requires_grad

    def test_images_and_classes_are_not_mutated(self, spec: Spec) -> None:
        """Labels are a tensor of their own: writing into them changes neither images nor classes."""
        task = self.task()
        classes = class_major(task)
        images = task.train.batch(slice(0, len(classes)))
        before = images.clone(), classes.clone()
        self.build(spec).initial(images, classes, task).zero_()
        assert same((images, classes), before)

    def _labels(self, policy: LabelPolicy, task: Task) -> Tensor:
        classes = class_major(task)
        return policy.initial(task.train.batch(slice(0, len(classes))), classes, task)


class InitialiserContract(TaskContract):
    """What every initialiser must satisfy.

    Attributes:
        deterministic: the images do not depend on the seed.
    """

    registry = initialisers
    deterministic: ClassVar[bool] = False

    def use(self, part: Initialiser, step: int) -> Tensor:
        """Return the images of a task."""
        return part.images(self.task(seed=step))

    def test_images_are_ready_to_be_learned(self, spec: Spec) -> None:
        """Images are (K * ipc, C, H, W), finite, in the data's precision, and no gradient comes with them."""
        task = self.task()
        images = self.build(spec).images(task)
        assert images.shape == (len(task.data.class_names) * task.ipc, *task.data.image_shape)
        assert images.dtype == task.train.images.dtype
        assert torch.isfinite(images).all()
        assert not images.requires_grad

    def test_images_are_class_major(self, spec: Spec) -> None:
        """Wherever a training image is taken, it stands at the place of its class."""
        task = self.task()
        for image, label in zip(self.build(spec).images(task), class_major(task), strict=True):
            found = (task.train.batch(slice(None)) == image).flatten(1).all(dim=1)
            assert bool((task.train.labels[found] == label).all()), f"an image of another class stands for {label}"

    def test_real_images_are_named_as_such(self, spec: Spec) -> None:
        """``images_are`` is one of its words; of "real" ones, each is a training image of its class."""
        initialiser, task = self.build(spec), self.task()
        assert initialiser.images_are in get_args(ImagesAre)
        if initialiser.images_are == "real":
            assert all_real(initialiser.images(task), class_major(task), task)

    def test_training_images_are_copied(self, spec: Spec) -> None:
        """Learning changes the images in place, which must not reach the data set."""
        task = self.task()
        before = task.train.images.clone()
        self.build(spec).images(task).fill_(7)
        assert torch.equal(task.train.images, before)

    def test_the_seed_decides(self, spec: Spec) -> None:
        """The same seed gives the same bits, and another seed other images."""
        first, again, other = (self.build(spec).images(self.task(seed)) for seed in (0, 0, 1))
        assert torch.equal(first, again)
        assert torch.equal(first, other) is self.deterministic


class AugmentationContract(Contract):
    """What every augmentation must satisfy.

    Attributes:
        image_shape: (C, H, W) of the images it is tried on.
        draws: how many draws are tried, so that each of several operations has its turn.
    """

    registry = augmentations
    image_shape: ClassVar[tuple[int, int, int]] = (3, 8, 8)
    draws: ClassVar[int] = 20

    def images(self, batch: int, seed: int = 0) -> Tensor:
        """Return random float64 images."""
        return torch.randn(batch, *self.image_shape, generator=Seeds(seed).generator("images"), dtype=torch.float64)

    def use(self, part: Augmentation, step: int) -> Tensor:
        """Return augmented images."""
        return part(self.images(4), Seeds(step).generator("augmentation"))

    def test_draws_can_be_replayed(self, spec: Spec) -> None:
        """The generator decides the draw, the draw decides the result; images keep shape, precision and values."""
        augmentation, images = self.build(spec), self.images(4)
        for seed in range(self.draws):
            draw, again = (augmentation.draw(4, self.image_shape, Seeds(seed).generator()) for _ in range(2))
            results = [augmentation.apply(images, parameters) for parameters in (draw, draw, again)]
            results.append(augmentation(images, Seeds(seed).generator()))
            assert all(same(result, results[0]) for result in results)
            assert results[0].shape == images.shape
            assert results[0].dtype == images.dtype
            assert augmentation.apply(images.float(), draw).dtype == torch.float32
            assert torch.equal(images, self.images(4)), "the images were changed in place"

    def test_a_siamese_draw_fits_any_batch(self, spec: Spec) -> None:
        """One draw is shared by all images, however many there are."""
        augmentation = self.build(spec)
        for seed in range(self.draws):
            draw = augmentation.draw(4, self.image_shape, Seeds(seed).generator(), siamese=True)
            for batch in (1, 5):
                images = self.images(batch, seed)
                singly = torch.cat([augmentation.apply(image[None], draw) for image in images])
                assert_close(augmentation.apply(images, draw), singly)

    def test_many_pieces_are_augmented_as_each_by_itself(self, spec: Spec) -> None:
        """``apply_many`` is ``apply`` on every piece."""
        augmentation, sizes, images = self.build(spec), [3, 1] * self.draws, self.images(4 * self.draws)
        draws = [augmentation.draw(size, self.image_shape, Seeds(k).generator()) for k, size in enumerate(sizes)]
        pieces = [augmentation.apply(piece, draw) for piece, draw in zip(images.split(sizes), draws, strict=True)]
        assert_close(augmentation.apply_many(images, draws, sizes), torch.cat(pieces))

    def test_gradients_of_gradients_are_finite(self, spec: Spec) -> None:
        """A gradient on augmented images can be differentiated with respect to the images, as an unroll does."""
        augmentation = self.build(spec)
        for seed in range(self.draws):
            images = self.images(4).requires_grad_()
            weights = torch.ones_like(images[0]).requires_grad_()
            draw = augmentation.draw(4, self.image_shape, Seeds(seed).generator())
            loss = (augmentation.apply(images, draw) * weights).sum().square()
            (first,) = grad(loss, weights, create_graph=True)
            (second,) = grad(first.square().sum(), images)
            assert torch.isfinite(first).all()
            assert torch.isfinite(second).all()


class NetworkContract(Contract):
    """What every network must satisfy.

    Attributes:
        image_shape: (C, H, W) of the images it is built for.
        classes: how many there are, K.
    """

    registry = networks
    image_shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    classes: ClassVar[int] = 5

    def create(self, builder: NetworkBuilder, seed: int = 0) -> nn.Module:
        """Return a freshly initialised network."""
        return create(builder, self.image_shape, self.classes, Seeds(seed).generator("network"))

    def images(self) -> Tensor:
        """Return three random images."""
        return torch.randn(3, *self.image_shape, generator=Seeds(0).generator("images"))

    def use(self, part: NetworkBuilder, step: int) -> Tensor:
        """Return the logits of a fresh network that is tested; while it is trained it may draw random numbers."""
        return self.create(part, seed=step).eval()(self.images()).detach()

    def refuse(self, network: nn.Module, *needs: Need) -> None:
        """Skip where methods with these needs will refuse the network; fail where all will."""
        assert network_problems(network, self.images(), classes=self.classes) == []
        if problems := network_problems(network, self.images(), *needs):
            pytest.skip("; ".join(problems))

    def test_logits_are_one_per_class(self, spec: Spec) -> None:
        """Logits are finite, (B, K), and the same whenever it is tested."""
        network = self.create(self.build(spec))
        self.refuse(network)
        logits = network.eval()(self.images())
        assert torch.isfinite(logits).all()
        assert torch.equal(network(self.images()), logits)

    def test_features_lead_to_the_logits(self, spec: Spec) -> None:
        """``classifier`` after ``features`` is the network, for methods that compare features."""
        network = self.create(self.build(spec))
        self.refuse(network, "features", "no_randomness")
        logits = network.eval()(self.images())
        assert_close(network.classifier(features(network, self.images())), logits)  # type: ignore[operator]

    def test_what_is_drawn_while_training_can_be_repeated(self, spec: Spec) -> None:
        """Random numbers come from torch's, numpy's or Python's global generator, which an evaluation seeds."""
        outputs = []
        for _ in range(2):
            network = self.create(self.build(spec)).train()
            with seeded(0, torch.device("cpu")):
                outputs.append(network(self.images()))
        assert torch.equal(*outputs)

    def test_the_generator_decides_and_networks_share_nothing(self, spec: Spec) -> None:
        """The same generator gives the same bits in tensors of their own, another one others."""
        builder = self.build(spec)
        # all three live at once: one that shares modules with another holds the other's numbers now
        created = [self.create(builder, seed) for seed in (0, 0, 1)]
        first, again, other = (network.state_dict() for network in created)
        assert all(same(first[name], again[name]) for name in first)
        assert not all(same(first[name], other[name]) for name in first)
        assert not {t.data_ptr() for t in first.values()} & {t.data_ptr() for t in again.values()}

    def test_gradients_of_gradients_are_finite(self, spec: Spec) -> None:
        """A student's step can be differentiated with respect to the images, through the flat vector of parameters."""
        network = self.create(self.build(spec))
        self.refuse(network, "no_randomness", "no_state")
        flat, images, labels = FlatNetwork(network), self.images(), torch.arange(3)
        theta = flat.flatten()
        assert_close(flat(theta, images), network(images))
        assert StudentStep(flat).problems(images, labels) == []
        graph = StudentStep(flat).graph(theta, images, labels)
        first = graph.gradient.detach()
        _, (second,) = graph.products(first, wanted=[1])
        assert torch.isfinite(first).all()
        assert torch.isfinite(second).all()
        assert bool((second != 0).any()), "a step of training does not depend on the images"


class DatasetReaderContract(Contract):
    """What every reader of a data set must satisfy; ``complete`` writes the files that it reads."""

    registry = datasets

    def use(self, part: DatasetReader, step: int) -> tuple[Tensor, ...]:
        """Return images and labels of both splits."""
        raw = decoded(part.read(Seeds(step)), SQUARES)
        return (*raw.train, *raw.test)

    def test_splits_are_whole_arrays_of_labelled_images(self, spec: Spec) -> None:
        """Images are uint8 (n, C, H, W) of one size, labels int64 (n,) in range, every class can be learned."""
        raw = decoded(self.build(spec).read(Seeds(0)), SQUARES)
        shape, classes = raw.train[0].shape[1:], len(raw.class_names)
        assert classes >= 2
        assert len(set(raw.class_names)) == classes
        assert shape[0] in (1, 3)
        for images, labels in filter(None, (raw.train, raw.test, raw.validation)):
            assert images.dtype == torch.uint8
            assert labels.dtype == torch.int64
            assert images.shape == (len(labels), *shape)
            assert len(labels)
            assert bool(((labels >= 0) & (labels < classes)).all())
        assert set(raw.train[1].tolist()) == set(range(classes)), "a class has no training image"

    def test_what_goes_with_the_images_can_be_stored(self, spec: Spec) -> None:
        """The name is text, provenance is JSON, and released constants are one per channel."""
        raw = decoded(self.build(spec).read(Seeds(0)), SQUARES)
        assert raw.name
        assert json.loads(json.dumps(dict(raw.provenance))) == dict(raw.provenance)
        assert raw.released is None or {len(part) for part in raw.released} == {raw.train[0].shape[1]}

    def test_the_same_seeds_give_the_same_data(self, spec: Spec) -> None:
        """Splits that the source does not fix are decided by the seeds alone."""
        assert same(self.use(self.build(spec), 0), self.use(self.build(spec), 0))
