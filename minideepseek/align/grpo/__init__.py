"""Group relative policy optimisation: learn from what one tried oneself, judged against one's other attempts.

DeepSeekMath (arXiv 2402.03300, section 4) drops PPO's critic: the mean reward of a group of responses to one question
says how well one usually does there, and what a response has above it is its advantage.
"""
