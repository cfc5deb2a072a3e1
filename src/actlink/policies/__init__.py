"""Policy families. Law: one file per family; its framework is imported only inside it, when a policy is made."""
