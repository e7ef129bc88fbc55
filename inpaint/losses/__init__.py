from inpaint.losses.paper import adversarial_loss as adversarial_loss
from inpaint.losses.paper import discriminator_losses as discriminator_losses
from inpaint.losses.paper import reconstruction_loss as reconstruction_loss
