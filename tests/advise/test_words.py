"""Words alone: a verdict for a task of which nothing is known but its description. One line each: verdict: task."""

from __future__ import annotations

import pytest

from skill.advise import ApproachQuery
from skill.advise.verdict import decide, gather

LINES = """\
rag|hybrid: Customer support chatbot
hybrid: Customer support bot with brand tone and a product knowledge base that changes weekly
fine_tuning: Code completion for our internal codebase
rag: Document Q&A over legal contracts
fine_tuning: Sentiment analysis of tweets
prompting: Creative writing assistant
fine_tuning: Extract structured data from invoices into JSON
fine_tuning: Medical report summarisation in our hospital's fixed template
fine_tuning: Math reasoning model with verifiable answers
rag: Chatbot that answers questions about live sports results
preference_tuning: Align the model with human preference pairs
fine_tuning: Text-to-SQL for our schema
fine_tuning: Translate legal documents with house terminology, 50k translated segments
rag: Internal HR policy question answering
continued_pretraining: Teach the model a rare programming language from 800M tokens of source code
fine_tuning: Route 10k support tickets to teams
prompting: Generate ideas for blog posts
prompting: General purpose chat
rag: News question answering
fine_tuning: Email classification with low latency
distillation: Make a small model as good as GPT-4 on our task
preference_tuning: Improve response quality using user feedback ratings
rag: E-commerce product recommendations from current inventory
fine_tuning: Make the model respond in the style of our company
fine_tuning: Multi-step tool use with our APIs, 5,000 successful trajectories
fine_tuning: Spam detection with 100k labelled messages
rag: Search assistant over research papers
rag: Financial advisor with real-time market data
fine_tuning: Legal clause classification, 8,000 annotated clauses
rag: Compliance questions where regulations change quarterly
prompting: One-off translation of a document
hybrid: Legal assistant that drafts in our firm's style and cites current case law, 4k memos
continued_pretraining: Adapt a base model to a large unlabelled corpus of chemistry papers
preference_tuning: Reduce toxicity using chosen and rejected responses
fine_tuning: Solve coding contest problems where tests verify solutions
fine_tuning: Voice assistant intent recognition with 50 ms latency
fine_tuning: Generate SQL with exact syntax for a proprietary database
prompting: Summarise articles, 20 examples
rag: FAQ bot, 50 FAQs updated monthly
fine_tuning: Convert radiology findings into structured reports, 15000 pairs
rag: Technical support for software with frequent releases
rag|hybrid: Chatbot for our bank's customers about account products
fine_tuning: Named entity recognition in clinical text
hybrid|rag: Helpdesk assistant for IT tickets with an evolving knowledge base
fine_tuning: Generate product descriptions in our brand voice, 3000 existing descriptions
prompting: Brainstorming partner for marketing
fine_tuning: Grammar correction for Danish with 200k sentence pairs
rag: Recipe assistant over a database of 50,000 recipes
rag: Answer tenants' questions about building rules
fine_tuning: Detect fraud in claims text with 60,000 labelled claims
preference_tuning: We have 20k pairs of preferred and dispreferred summaries
preference_tuning: Binary good/bad labels on 8,000 model outputs
fine_tuning: RL on math problems with an automatic answer checker
continued_pretraining: 10B tokens of Arabic web text, base model only speaks English
distillation: Our 70B teacher labels data for a 3B student
prompting: I have five examples of the format I need
hybrid: Doctor letters in our format using patient data that changes daily; 5000 letters
fine_tuning: Our outputs must follow an XML schema exactly, we have 1000 examples
rag: Travel assistant with current flight prices
fine_tuning: Chat model that talks like a medieval knight, 2k dialogues
fine_tuning: Predict the product category from title, 300 classes, 1M products labelled
rag: Legal research with citations
prompting: Rewriting emails politely for a small team
fine_tuning: Rewriting sentences into easy language, 9,000 parallel sentences
rag: Company knowledge assistant
rag: Onboarding bot for new employees that answers from handbooks
fine_tuning: Convert handwritten-note transcriptions to structured records, 12k
rag: Ask-me-anything over Slack history
fine_tuning|distillation: Run a summariser on phones
preference_tuning: Annotators ranked responses; make the model follow the ranking
fine_tuning: Game agent trained with win/loss reward
continued_pretraining: Inject knowledge from 5 GB of unlabelled internal engineering documents
fine_tuning: Generate regex from descriptions, checked by test strings
rag|hybrid: Assistant for insurance agents about tariffs that change every month
prompting: Prototype of a chatbot to show investors next week
prompting: We don't have any data yet
distillation: Replace expensive GPT-4 calls with a fine-tuned 7B using 100k logged responses
fine_tuning: Domain-specific function calling with 3k examples
fine_tuning: Our support macros: pick the right macro of 80 for a ticket, 30k past choices
rag: A city wants residents to ask about garbage days and parking permits; the information is on the city's website
rag: Give engineers answers from past incident postmortems
rag|hybrid: Pharmacists need dosage answers backed by the current formulary
rag: Investors ask about our fund documents, every answer needs a page reference
rag: The answer depends on the user's latest invoices
rag: Our catalogue has 40k products that come and go every day, users ask which one suits them
fine_tuning: Ad copy classifier, approve or reject according to our policy, 70k past decisions
fine_tuning: Model should output only the ISO country code, prompting gives extra words. 1,000 examples
fine_tuning: Legal-to-plain-language rewriting with 18,000 aligned paragraphs
fine_tuning: Our writers' headline style, 40,000 past headlines
fine_tuning: Chemistry named reactions: label each procedure, 6,500 labelled procedures
fine_tuning: Generate G-code for CNC machines, 9,000 verified programs
fine_tuning: Keyword extraction from job ads; latency below 80 ms; 120k annotated ads
fine_tuning: Assistant should ask clarifying questions the way our consultants do; 3,500 transcripts
fine_tuning: Lean theorem prover with compiler feedback
fine_tuning: SQL agent rewarded when the query result equals the expected table
fine_tuning: Train on LeetCode style problems with hidden tests as reward
prompting: Rename photo files from captions, one evening project
prompting: Only 12 examples of classified complaints so far
prompting: Our manager wants weekly summaries of a ten-message thread
prompting: We are not sure yet what the assistant should do
prompting: ChatGPT does it perfectly with one instruction; 20 requests per day
hybrid: Concierge bot that sounds like our luxury brand and knows tonight's table availability; 6k past chats
hybrid: Write patient letters in our clinic's template from the current record; 10k letters
hybrid: Newsletter drafts in our editorial voice about this week's releases; 2,000 past newsletters
preference_tuning: Customers choose between two suggested replies, 50k choices logged
preference_tuning: Each suggestion was accepted or dismissed by the agent; 200k events
preference_tuning: Editors mark generated paragraphs as keep or discard
preference_tuning: DPO on our annotated comparisons
preference_tuning: Star ratings from users on answers, make answers better liked
continued_pretraining: Base model for the Basque language from 4 billion tokens
continued_pretraining: We have 50 million pages of unlabelled court documents
continued_pretraining: Train further on our internal code, 8B tokens, no instructions
continued_pretraining: Domain-adaptive pretraining for the energy sector
distillation: Make Llama 8B behave like our 405B on ticket triage
distillation: Our agents run on Opus, we keep all traces, a local 14B should replace it
distillation: Use a strong model to label 100k texts and train a small classifier from it
distillation: Shrink a slow chain of GPT-4 prompts into one fast model
rag: Voice bot for a cinema: what's on tonight, seats left
rag: Read-only access to SharePoint for staff questions, respecting who may see what
rag: Help our field technicians get the right repair step from 900 service manuals
rag: A parliament bot that tells citizens how members voted last session
rag: Students want to query lecture slides and notes of the running semester
rag: We need an assistant that says which of our warehouses has an item right now
rag: A doctor asks for interactions between drugs, information must be from the national database
rag|hybrid: Wine shop assistant recommending from bottles in store
rag: Give journalists a way to interrogate leaked files with exact quotations
fine_tuning: Tag each sentence of a contract with one of 28 clause types, lawyers tagged 33,000 sentences
fine_tuning: Model writes commit messages in our convention, 50k commits
fine_tuning: Turn product photos' alt text into SEO titles, 12k examples, few-shot is inconsistent
fine_tuning: Dialogue system for children with a consistent gentle character, 4,000 scripted exchanges
fine_tuning: Score loan applications' free text for risk, 90k past outcomes
fine_tuning: Logic grid puzzles with a checker script
fine_tuning: Model proposes compiler flags; we measure the runtime automatically as reward
fine_tuning: Log parsing into our event schema, 7k parsed lines
fine_tuning: Translate assembly to C, recompile and compare binaries to verify
prompting: A friend asked me to make a bot that tells jokes
prompting: Eight labelled samples of feedback forms
prompting: Summaries of a few PDFs for a school project
prompting: Trying out ideas for an internal demo next Tuesday
prompting: The zero-shot results are already good enough for us
hybrid: Insurance letters in our wording with the customer's current contract data, 20k letters
hybrid: Fitness coach persona that uses the user's latest workout data; 5k coach chats
hybrid|rag: Support assistant for our app; features change weekly; friendly voice
preference_tuning: Humans picked the funnier of two jokes, 14k votes
preference_tuning: Downvoted answers should disappear, we log votes
preference_tuning: Judges ranked four translations for each source sentence
preference_tuning: Our moderators flag model replies as fine or not fine, 22k flags
continued_pretraining: Yoruba text collection of 700M tokens, model hardly knows Yoruba
continued_pretraining: A base model should soak up 20 GB of astronomy papers
continued_pretraining: Vocabulary of oil drilling reports is foreign to the model; 300k raw reports
distillation: We want GPT-5 level extraction on our own 4B model to cut cost
distillation: Transfer the skill of a 120B reasoning model to 8B with its traces
distillation: API costs for Gemini exploded, can an open 7B learn from our logs?
fine_tuning: Small LoRA to always answer in British English, 800 samples
rag: Municipal law changes often, officials need answers with article numbers
"""


@pytest.mark.parametrize("line", LINES.splitlines())
def test_verdict_from_words(line):
    expected, _, task = line.partition(": ")
    facts, reading = gather(ApproachQuery.build(task=task))
    assert decide(facts).verdict in expected.split("|"), reading.quotes
