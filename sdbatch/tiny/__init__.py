"""The packaged model: a small text-to-image latent diffusion model, its scenes, and a reader of its pictures.

scenes       the scenes, including the tenth that training never sees
captions     wordings of captions
wording      parses captions
reader       recognises a picture's content from its pixels
model/       the weights in diffusers' format; `training/tiny` in the repository makes them
"""
