"""What `swap` is made of: keys, the plan, and the forwards that torch.fx rewrites."""
