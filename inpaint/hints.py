"""Owns what a wrong name was meant to be: the same name elsewhere, other trainers' name for it, or the most alike."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches

# What other trainers call it.
_ELSEWHERE = {
    "config": "cfg conf preset config_file opt",
    "run-dir": (
        "output_dir out_dir outdir output out save_dir savedir save_path work_dir workdir log_dir logdir "
        "logging_dir results_dir result_dir exp_dir exp_name exp experiment name checkpoint_dir checkpoints_dir "
        "ckpt_dir project_dir dir"
    ),
    "init-from": (
        "pretrained pretrained_model pretrained_model_name_or_path model_name_or_path weights load ckpt finetune"
    ),
    "no-resume": "overwrite_output_dir from_scratch",
    "training.epochs": "num_epochs n_epochs nepochs num_train_epochs max_epochs epoch",
    "training.max_steps": (
        "max_train_steps num_steps steps total_steps iterations iters max_iter niter num_iters total_kimg"
    ),
    "training.global_batch_size": (
        "batch_size batchsize batch bs b train_batch_size total_batch_size effective_batch_size"
    ),
    "training.micro_batch_size": (
        "per_device_train_batch_size per_gpu_batch_size batch_gpu device_batch_size gradient_accumulation_steps "
        "accumulate_grad_batches grad_accum accumulation_steps"
    ),
    "training.precision": "mixed_precision fp16 bf16 half amp dtype",
    "training.num_threads": "threads num_cpu_threads omp_num_threads",
    "training.seed": "random_seed manual_seed rng_seed",
    "training.log_every": "logging_steps log_interval log_freq print_freq log_steps log_every_n_steps",
    "training.tracker": "report_to log_with logger wandb tensorboard use_wandb trackio",
    "training.compile": "torch_compile use_compile",
    "optimizer.generator_learning_rate optimizer.discriminator_learning_rate": "lr learning_rate base_lr rate",
    "optimizer.generator_learning_rate": "lr_g g_lr glr generator_lr lr_generator",
    "optimizer.discriminator_learning_rate": "lr_d d_lr dlr discriminator_lr lr_discriminator",
    "optimizer.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule lr_policy sched",
    "optimizer.warmup_kimg": "warmup warmup_steps lr_warmup_steps warmup_epochs warmup_ratio num_warmup_steps",
    "optimizer.gradient_clip": "max_grad_norm clip_grad grad_clip gradient_clip_val clip gradient_clipping clip_norm",
    "optimizer.beta1": "adam_beta1 b1 betas",
    "optimizer.beta2": "adam_beta2 b2",
    "data.path": (
        "data data_dir data_path dataset dataset_name dataset_path dataroot data_root train_data_dir train_dir "
        "train_data input input_dir images image_dir root img_dir"
    ),
    "data.image_size": "resolution res img_size imgsize size crop_size fine_size image_resolution input_size",
    "data.flip": "random_flip hflip mirror horizontal_flip",
    "data.holes": "masks mask_type mask_dir",
    "model.width": "ngf ndf channels base_channels num_channels cbase filters nf",
    "model.norm": "normalization norm_layer normalisation",
    "loss.adversarial_weight": "adv_weight lambda_adv gan_weight adversarial_loss_weight alpha w2",
    "loss.reconstruction_weight": "l1_weight mse_weight l2_weight rec_weight lambda_l1 lambda_rec recon_weight w1",
    "ema.half_life_kimg": "ema_decay ema use_ema ema_kimg ema_beta",
    "checkpointing.every_steps": (
        "save_steps checkpointing_steps save_every save_interval save_freq snapshot_freq snap"
    ),
    "checkpointing.keep": "save_total_limit checkpoints_total_limit keep_checkpoints max_checkpoints",
    "evaluation.every_epochs": "eval_every eval_steps validation_steps validation_epochs val_interval eval_freq",
    "evaluation.num_samples": "num_validation_images n_samples",
    "hub.repo_id": "push_to_hub hub_model_id repo repo_name hub_repo_id",
    "hub.private": "hub_private_repo",
}
# What they have and we have not.
_NOT_HERE = {
    "the same command resumes by itself": "resume resume_from resume_from_checkpoint auto_resume continue_train",
    "it is the launcher's: accelerate launch --num_processes N train.py ...": (
        "gpus num_gpus n_gpu ngpu ngpus nproc nproc_per_node num_processes world_size devices num_nodes nnodes "
        "num_machines multi_gpu distributed ddp local_rank"
    ),
    "the GPU is taken if there is one; accelerate launch --cpu train.py ... leaves it": (
        "device cuda cpu gpu gpu_id use_cpu gpu_ids no_cuda accelerator"
    ),
    "it is the launcher's: accelerate launch --config_file accelerate_configs/deepspeed_zero2.yaml train.py ...": (
        "deepspeed use_deepspeed zero_stage fsdp zero"
    ),
    "nothing to set: each image is decoded once into a cache": (
        "num_workers workers dataloader_num_workers n_workers nworkers nthreads prefetch_factor pin_memory"
    ),
    "there is none: Adam without weight decay": "weight_decay wd adam_weight_decay momentum optimizer optim",
}


_MEANT, _NOTES = (
    {name: meaning for meaning, names in groups.items() for name in names.split()} for groups in (_ELSEWHERE, _NOT_HERE)
)


def hint(wrong: str, names: Collection[str], mark: str = "") -> str | None:
    """What to write in the place of `wrong`, as the end of a message; None if none of `names` is like it.

    `mark` stands before a name where it is written, `--` for a flag.
    """
    wrong = wrong[:100].strip("-. ").replace("-", "_").lower()
    last = wrong.rpartition(".")[2]
    by_last: dict[str, str] = {}
    for name in names:
        by_last.setdefault(name.rpartition(".")[2].replace("-", "_"), name)
    meant = by_last.get(last) or _MEANT.get(last, "")
    if last in _NOTES and not meant:
        return _NOTES[last]
    if not meant or not {*meant.split()} <= {*names}:
        plain = {name.replace("-", "_"): name for name in names}
        alike = [plain[name] for name in get_close_matches(wrong, plain, n=1, cutoff=0.6)]
        alike = alike or [by_last[name] for name in get_close_matches(last, by_last, n=1, cutoff=0.75)]
        meant = alike[0] if alike else ""
    return f"did you mean {' and '.join(f'{mark}{name}' for name in meant.split())}?" if meant else None
